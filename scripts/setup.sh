#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what a build needs and skips what is there: Debian packages (scripts/packages.txt) and a .venv with torch.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }

missing=()
while read -r package; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done < scripts/packages.txt
if ((${#missing[@]})); then
  if [[ $(id -u) == 0 ]]; then
    root=()
  elif sudo -n true 2>/dev/null || { [[ -t 0 ]] && command -v sudo >/dev/null && sudo true; }; then
    root=(sudo)
  else
    say "these Debian packages are missing, and installing them needs root:"
    say "  apt-get install ${missing[*]}"
    exit 1
  fi
  say "installing ${missing[*]}"
  "${root[@]}" apt-get update -qq
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# The stamp names what was installed, so that a changed list installs again and an unchanged one starts at once.
torch=2.13.0
stamp=.venv/.installed-$( (echo "$torch"; cat scripts/requirements.txt) | sha256sum | cut -c1-16)
if [[ ! -e $stamp ]]; then
  python=${PYTHON:-$(command -v python3.11 || command -v python3)}
  [[ -x .venv/bin/python ]] || { say "making .venv with $python"; "$python" -m venv .venv; }
  say "installing torch $torch and the Python packages"
  # torch first and by version: a later package must not choose another.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check "torch==$torch"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r scripts/requirements.txt
  touch "$stamp"
fi
