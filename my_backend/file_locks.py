"""Locks on open files, held until the file is closed or the process ends: `flock`, or Windows' own locks."""

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    from filelock import lock_descriptor, unlock_descriptor

    POLL_SECONDS = 0.01

    def lock(descriptor: int, *, shared: bool = False, wait: bool = True) -> bool:
        """Locks an open file; returns False if someone else holds it and it shouldn't `wait`.

        Shared locks are exclusive, too: only several servers and workers need them, which run on Linux.
        """
        return lock_descriptor(descriptor, blocking=wait, poll_interval=POLL_SECONDS)

    def unlock(descriptor: int) -> None:
        """Unlocks the file before it is closed: afterwards, Windows takes its time."""
        unlock_descriptor(descriptor)

else:

    def lock(descriptor: int, *, shared: bool = False, wait: bool = True) -> bool:
        """Locks an open file; returns False if someone else holds it and it shouldn't `wait`.

        Shared locks exclude only exclusive ones.
        """
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(descriptor: int) -> None:
        """Does nothing, so a forked process that has inherited the file keeps the lock until it closes the file."""
