"""The ROM-net: local Galerkin models, how they are built, solved and trusted."""
