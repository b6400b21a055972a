"""Problems with versions that have disappeared."""

from my_backend.diagnostics.problem import Problem


def live_version_missing(project: str, live: str) -> Problem:
    """The live version isn't on disk; `project` is the project's uid."""
    return Problem(
        "version-missing",
        f"The live version {live} is no longer on disk.",
        "Restore MODEL_DIR (is it mounted?), activate another version, or start training.",
        project,
    )


def all_versions_missing(project: str, predicted: str) -> Problem:
    """There is no version at all, but Label Studio has predictions of one."""
    return Problem(
        "version-missing",
        f"Label Studio has predictions from {predicted}, but MODEL_DIR has no version of this project.",
        "Restore MODEL_DIR (is it the same folder or volume as before?), or press Start training.",
        project,
    )
