"""Log lines as text or JSON, without secrets, and the process that writes them."""
