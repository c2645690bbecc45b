#!/bin/bash
# Run tests/fenics with the dolfinx of Debian 13 (0.9), and tests/slurm with its Slurm (24.11), on another
# Debian or Ubuntu machine.
#
#   debian13.sh [DIRECTORY]
#
# Makes a Debian 13 tree in DIRECTORY, or in a temporary one that is deleted at the end, installs
# Debian's dolfinx, petsc4py, mpi4py, Slurm and pytest in it and runs the tests there. A tree that is
# there already is used again. Needs root, debootstrap and about 3 GB; a few minutes.
#
#   DEBIAN_MIRROR   where to get packages; otherwise the Debian mirror that this machine's apt uses
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
suite=trixie
packages=(
    gcc libc6-dev python3-dev openmpi-bin
    python3-dolfinx python3-petsc4py python3-mpi4py python3-numpy python3-scipy
    python3-pluggy python3-pydantic python3-pytest python3-pytest-timeout python3-venv
    slurm-wlm munge procps
)

if [ "$(id -u)" -ne 0 ]; then
    echo "debian13.sh: making a Debian tree needs root. Run: sudo $0 $*" >&2
    exit 2
fi
if ! command -v debootstrap >/dev/null; then
    echo "debian13.sh: debootstrap is not installed. Run: apt-get install debootstrap" >&2
    exit 2
fi

mirror=${DEBIAN_MIRROR:-}
if [ -z "$mirror" ]; then
    # Security and other archives have another layout; the main one ends in /debian/.
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -E '/debian/?$' | head -n 1 || true)
fi
if [ -z "$mirror" ]; then
    echo "debian13.sh: this machine's apt names no Debian mirror. Set DEBIAN_MIRROR=<address>" >&2
    exit 2
fi

if [ $# -gt 0 ]; then
    mkdir -p "$1"
    tree=$(cd "$1" && pwd)
else
    tree=$(mktemp -d)
    chmod 755 "$tree" # apt's own user must be able to enter it
    # Nothing is ever mounted below it outside the namespaces further down, so this deletes only the tree.
    trap 'rm -rf --one-file-system "$tree"' EXIT
fi

inside() {
    # A mount namespace of its own: what is mounted goes away with the command, even if it is killed.
    unshare --mount --propagation private bash -c '
        set -e
        mount -t proc proc "$0/proc"
        mount -t sysfs -o ro sysfs "$0/sys"
        mkdir -p "$0/dev/shm"
        mount -t tmpfs tmpfs "$0/dev/shm"
        exec chroot "$0" "$@"' "$tree" env -i \
        PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
        ${no_proxy:+no_proxy="$no_proxy"} "$@"
}

if [ ! -e "$tree/etc/debian_version" ]; then
    echo "debian13.sh: a Debian 13 tree from the mirror, about a minute"
    debootstrap --variant=minbase --include=ca-certificates "$suite" "$tree" "$mirror" >"$tree.log" 2>&1 || {
        tail -n 20 "$tree.log" >&2
        rm -f "$tree.log"
        exit 1
    }
    rm -f "$tree.log"
fi

# How this machine reaches its mirrors (proxy, certificates, dates) holds for the tree as well: files that
# no package brought, and the certificates that somebody added.
for file in /etc/apt/apt.conf /etc/apt/apt.conf.d/* /etc/apt/auth.conf.d/*; do
    if [ -f "$file" ] && ! dpkg -S "$file" >/dev/null 2>&1 && ! grep -q -i 'dpkg::\|post-invoke' "$file"; then
        mkdir -p "$tree$(dirname "$file")"
        cp "$file" "$tree$file"
    fi
done
for file in /usr/local/share/ca-certificates/*.crt; do
    if [ -f "$file" ]; then cp "$file" "$tree/usr/local/share/ca-certificates/"; fi
done
for file in /etc/resolv.conf /etc/hosts; do
    if [ -f "$file" ]; then cp --dereference "$file" "$tree$file"; fi
done
inside update-ca-certificates >/dev/null 2>&1

echo "debian13.sh: Debian's packages"
# Nothing is to be started in the tree that nobody asked for.
printf '#!/bin/sh\nexit 101\n' > "$tree/usr/sbin/policy-rc.d" && chmod +x "$tree/usr/sbin/policy-rc.d"
inside apt-get -q -q update
inside apt-get -q -q -o Dpkg::Use-Pty=0 install -y --no-install-recommends "${packages[@]}" >"$tree/install.log" 2>&1 || {
    tail -n 20 "$tree/install.log" >&2
    exit 1
}

# Above Debian's packages, as .ci/setup does.
inside python3 -m venv --system-site-packages /opt/venv
inside /opt/venv/bin/python -m pip install -q google-crc32c hypothesis matplotlib safetensors scikit-learn xarray zarr

rm -rf "$tree/opt/sciflow"
mkdir -p "$tree/opt/sciflow/plugins"
cp -r "$root/pyproject.toml" "$root/sciflow" "$root/tests" "$root/hpc" "$tree/opt/sciflow/"
for plugin in sciflow_fenics sciflow_control sciflow_rom; do cp -r "$root/plugins/$plugin" "$tree/opt/sciflow/plugins/"; done
# What an installation would say; the tests bring what else they need.
mkdir "$tree/opt/sciflow/plugins/sciflow-0.dist-info"
printf 'Metadata-Version: 2.1\nName: sciflow\nVersion: 0\n' > "$tree/opt/sciflow/plugins/sciflow-0.dist-info/METADATA"
printf '[sciflow]\ncore = sciflow.components\nfenics = sciflow_fenics.components\ncontrol = sciflow_control.components\nrom = sciflow_rom.components\n' > "$tree/opt/sciflow/plugins/sciflow-0.dist-info/entry_points.txt"

run() {
    inside env PYTHONPATH=/opt/sciflow:/opt/sciflow/plugins OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1 \
        sh -c 'cd /opt/sciflow && exec "$@"' sh "$@"
}
run /opt/venv/bin/python -c 'import dolfinx; print("debian13.sh: dolfinx", dolfinx.__version__)'
run /opt/venv/bin/python -m pytest -p no:cacheprovider -m 'not mpi' tests/fenics
run /opt/venv/bin/python -m pytest -p no:cacheprovider -m mpi tests/fenics
echo "debian13.sh: Slurm $(run sinfo --version)"
# Its Open MPI knows that virtual nodes share a machine, and then wants to be told how they meet.
run env OMPI_MCA_btl_tcp_if_include=lo /opt/venv/bin/python -m pytest -p no:cacheprovider tests/slurm/test_fake.py tests/slurm/test_jobs.py
