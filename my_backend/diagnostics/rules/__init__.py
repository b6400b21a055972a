"""Rules: pure functions that turn facts into problems and fixes. All user-facing wording of problems is here."""
