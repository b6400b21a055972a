"""A real Label Studio with real images: `make demo`, and the stage of the tests and benchmarks."""
