"""Label Studio's formats: labeling configs, annotations, events. Pure: no I/O, no torch, no HTTP."""
