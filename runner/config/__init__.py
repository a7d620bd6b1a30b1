"""Importing the package registers the schema of conf/ with Hydra, for those that compose by Hydra itself."""

from runner.config import schema as schema
