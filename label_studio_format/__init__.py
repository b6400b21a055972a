"""Label Studio's formats: labeling configs, annotations, events, pasted tokens. Pure: no I/O, no torch, no HTTP."""
