#!/bin/bash
# Runs a test program on a real device, unforked: a forked child could not use the device. Without one, says how many
# tests are skipped. Use: on_device.sh PLUGIN FOLDER_OF_DEVICE_COUNT PROGRAM SOURCE
set -u
plugin=$1 folder=$2 program=$3 source=$4
if [ "$("$folder/device_count")" -gt 0 ]; then
    exec env CK_FORK=no SALF_TEST_PLUGIN="$plugin" ${SANITIZER:-} "$program"
fi
for ((k = $(grep -c 'HARNESS_ADD(' "$source"); k > 0; k--)); do
    echo "SKIPPED: $(basename "$program"), there is no CUDA device"
done
