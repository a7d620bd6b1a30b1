"""The tests: unit/ is pure and fast, integration/ has real processes, golden/ holds text to review."""
