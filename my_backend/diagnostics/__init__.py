"""Problems: the summary, and the doctor."""
