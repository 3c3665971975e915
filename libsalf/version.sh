#!/bin/sh
# The version of salf.h, for builds other than the Makefile's.
sed -n 's/^#define SALF_VERSION_[A-Z]*  *\([0-9]*\).*/\1/p' "$(dirname "$0")/../include/salf.h" | paste -sd.
