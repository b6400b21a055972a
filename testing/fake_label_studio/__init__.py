"""What the backend calls of Label Studio, without one."""
