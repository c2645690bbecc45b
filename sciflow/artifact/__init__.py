"""Artifacts: zarr v3 groups with a schema, a digest and their provenance.

The format is described in ``docs/format.md``. `sealed` reads what was published, `writer` and
`member` write, `gather` reads random batches, `snapshot` looks at what is still being written and
`verify` checks. All that must survive a kill or a power cut goes through `disk`.
"""

from sciflow.artifact.disk import explain_os_error
from sciflow.artifact.sealed import DATA, KEY, MANIFEST, Artifact

__all__ = ["DATA", "KEY", "MANIFEST", "Artifact", "explain_os_error"]
