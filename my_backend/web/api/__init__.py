"""The endpoints: what Label Studio, people and programs can request, and its description."""
