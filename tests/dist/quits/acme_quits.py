"""A plugin that ends the process where its licence is missing."""

import sys

sys.exit("acme: no licence\nbuy one")
