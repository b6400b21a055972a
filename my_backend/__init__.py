"""Serves any model class: Label Studio's protocol, jobs and versions. Contains no machine learning."""
