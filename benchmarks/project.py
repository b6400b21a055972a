"""The project of digits that the benchmarks train and predict; the fake Label Studio has it, annotated."""

from testing.digits import LABEL_CONFIG
from testing.fake_label_studio.annotated_projects import described, uid

NUMBER = 7
UID = uid(NUMBER)
PROJECT = described(NUMBER, LABEL_CONFIG)
