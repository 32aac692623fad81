# SPDX-License-Identifier: Apache-2.0
"""What the tests share; tests/README.md is the map."""
