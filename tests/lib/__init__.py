# SPDX-License-Identifier: Apache-2.0
"""What the tests share; tests/README.md is the map."""

import os

# Before grpc is imported anywhere: with handlers of its own for fork(), a child that a test prepares
# in Python (preexec_fn) now and then aborts before it runs its program.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
