"""`python -m modelmesh`: the `modelmesh` command."""

import sys

from modelmesh.cli import main

sys.exit(main())
