"""Label Studio's formats: configs, tasks, annotations, events, pasted tokens; and settings from `.env`.

Only `env_file` reads a file. No torch, no HTTP.
"""
