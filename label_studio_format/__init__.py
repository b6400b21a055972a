"""Label Studio's formats: configs, tasks, annotations, events, pasted tokens. Pure: no I/O, no torch, no HTTP."""
