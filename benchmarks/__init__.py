"""What is measured, against what: README.md."""
