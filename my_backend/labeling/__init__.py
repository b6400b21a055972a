"""Labels many images with little work: labeling runs, the pool, and accepting without review; also detects drift."""
