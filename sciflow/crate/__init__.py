"""RO-Crates: how a run went, and where one artifact comes from, for people without sciflow.

`crate` and `write` describe one run of a flow (Provenance Run Crate 0.5), `crate_of` exports one
artifact with its lineage (Process Run Crate 0.5). Both are plain JSON-LD on RO-Crate 1.1; the terms
that RO-Crate 1.1 lacks are defined in the document itself, so that nothing but the RO-Crate context
has to be resolved.

Notes
-----
**Names.** Artifacts lie outside of the run's directory, where a crate may not point with a path. They
are named by what they hold, ``ni:///sha-256;...`` (RFC 6920), from the artifact's digest: the SHA-256
of the list of its files with their sizes and SHA-256. Such a name is an absolute URI, is the same in
every crate that mentions the artifact and holds no path. The artifact's directory, relative to the
store, is its ``alternateName``. Likewise an execution has the same ``urn:uuid:`` in every crate.

**What is left out.** No absolute path, host name, command line or ``SCIFLOW_*`` variable is written,
though provenance records them; paths in error messages are shortened and secrets hidden. The login
name is written as the ``agent``: it is in provenance on purpose, and the profiles ask for it. What is
not known is left out. The profiles demand a licence: where none is given it is SPDX's word for
"nobody has said", ``NOASSERTION``.

**Reused results.** The execution that made a reused artifact is described with the times at which it
took place; no step of this run claims it.

References
----------
Workflow Run RO-Crate profiles 0.5, https://w3id.org/ro/wfrun/provenance/0.5 and
https://w3id.org/ro/wfrun/process/0.5; RO-Crate 1.1, https://w3id.org/ro/crate/1.1.
"""

from sciflow.crate.export import crate_of
from sciflow.crate.graph import METADATA
from sciflow.crate.run import crate, write

__all__ = ["METADATA", "crate", "crate_of", "write"]
