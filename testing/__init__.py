"""What tests, benchmarks and the demo share; not in the wheel."""
