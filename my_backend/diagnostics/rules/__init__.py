"""Rules: pure functions that turn facts into problems and fixes. The user-facing wording of problems is here.

Two texts come from `label_studio_format`, because training runs and `/validate` use them, too: what is wrong with a
labeling config (`labeling_config`), and that annotations use choices that no longer exist (`training_report`).
"""
