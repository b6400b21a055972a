"""Serves any LabelStudioMLBase: Label Studio's protocol, jobs and versions. Contains no machine learning."""
