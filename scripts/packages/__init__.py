"""Parts of scripts/package_test.py."""
