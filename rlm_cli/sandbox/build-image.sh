#!/bin/sh
# Make the root file system of a sandbox image from Debian packages: Python with its whole standard library,
# ca-certificates, the essential tools, and nothing else. For machines that can reach a Debian mirror and no registry.
#
#   build-image.sh OUT.tar [SUITE] [MIRROR]
#
# Needs root and debootstrap, or mmdebstrap (which needs no root). Prints one line a stage on stdout; the tar that it
# writes is what `docker import` takes. Works in a directory of its own beside OUT.tar and removes it.
set -eu

# What a package manager, an init system and a login need, and a Python kernel does not.
surplus='apt libapt-pkg6.0 gpgv debconf debian-archive-keyring adduser passwd login perl-base e2fsprogs libext2fs2
logsave libss2 mount util-linux util-linux-extra bsdutils init-system-helpers sysvinit-utils
libpam-modules libpam-modules-bin libpam-runtime libpam0g libgnutls30 libp11-kit0 libunistring2 libhogweed6 libnettle8
libidn2-0 libtasn1-6 libseccomp2 libsemanage2 libsemanage-common libsepol2 libdebconfclient0 libfdisk1 libmount1
ncurses-bin'

tidy() { # leave $1 with what a kernel needs
  root=$1
  awk '/^Package:/ { name = $2 } /^Version:/ { print name, $2 }' "$root/var/lib/dpkg/status" \
    >"$root/etc/rlm-sandbox-packages"
  for package in $surplus; do
    for list in "$root/var/lib/dpkg/info/$package.list" "$root/var/lib/dpkg/info/$package":*.list; do
      [ -e "$list" ] || continue
      while IFS= read -r path; do
        if [ -f "$root$path" ] || [ -L "$root$path" ]; then
          # A directory that merged /usr turned into a link belongs to everybody.
          [ -d "$root$path" ] || rm -f "$root$path"
        fi
      done <"$list"
    done
  done
  cd "$root"
  rm -rf usr/share/doc usr/share/man usr/share/info usr/share/locale usr/share/lintian usr/share/bug \
    usr/share/bash-completion usr/share/perl5 usr/share/common-licenses usr/share/debconf usr/share/keyrings \
    var/cache/* var/log/* var/lib/apt var/lib/dpkg var/lib/pam var/lib/systemd etc/apt etc/dpkg \
    usr/bin/openssl usr/bin/dpkg* usr/lib/dpkg usr/lib/apt usr/lib/systemd \
    boot home media mnt opt srv tmp/* run/*
  find . -xdev -type f -perm /6000 -exec chmod a-s {} +
  mkdir -p in dev proc sys tmp
  chmod 1777 tmp
  # What the stock image sets up and debootstrap copies from this machine.
  rm -f etc/resolv.conf etc/hostname var/lib/dbus/machine-id
  : >etc/machine-id
  cd /
}

if [ "$1" = --tidy ]; then
  tidy "$2"
  exit
fi

out=$1
suite=${2:-bookworm}
mirror=${3:-http://deb.debian.org/debian}
packages=python3,ca-certificates

if [ "$(id -u)" = 0 ] && command -v debootstrap >/dev/null; then
  work=$(mktemp -d "$out.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  trap 'exit 130' INT TERM
  root=$work/root
  echo "downloading and unpacking Debian $suite packages from $mirror"
  debootstrap --variant=minbase --include="$packages" "$suite" "$root" "$mirror" >"$work/log" 2>&1 || {
    tail -n 5 "$work/log" >&2
    exit 1
  }
  echo "removing what Python does not need"
  (tidy "$root")
  echo "packing"
  tar --create --file "$out" --directory "$root" --numeric-owner --sort=name --one-file-system \
    --exclude='./dev/*' .
elif command -v mmdebstrap >/dev/null; then
  echo "downloading and unpacking Debian $suite packages from $mirror"
  # The hook runs inside mmdebstrap's user namespace, where the files belong to root.
  self=$(readlink -f "$0")
  mmdebstrap --quiet --variant=minbase --include="$packages" --skip=cleanup --skip=output/dev \
    --customize-hook="sh '$self' --tidy \"\$1\"" "$suite" "$out" "$mirror"
else
  echo "debootstrap (as root) or mmdebstrap is needed" >&2
  exit 127
fi
