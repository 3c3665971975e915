#!/bin/bash
# The tests of PyTorch and its hosts with the releases of today, resolved when this runs: what breaks here will break at
# users'. In a fresh environment (several GB), or with CURRENT_PYTHON, one that has them already. SALF_PIP_FLAGS: more
# for pip, such as --extra-index-url for a build of PyTorch without CUDA. What cannot be had is skipped, aloud: all of it
# without a network, a single host (Lightning, bitsandbytes, ...) where it does not go with the others.
set -u
build=$(realpath "${BUILD:-build}")
python=${CURRENT_PYTHON:-}
if [ -z "$python" ]; then
    venv=$build/venv-current
    log=$build/venv-current.log
    rm -rf "$venv"
    python3 -m venv "$venv" >"$log" 2>&1 || { echo "SKIPPED: current releases: python3 -m venv: $(tail -n 1 "$log")"; exit 0; }
    pip=("$venv/bin/pip" install -q --disable-pip-version-check ${SALF_PIP_FLAGS:-})
    "${pip[@]}" torch transformers peft accelerate safetensors numpy cffi pycparser pytest >"$log" 2>&1 ||
        { echo "SKIPPED: current releases: $(grep -m 1 -i error "$log" || tail -n 1 "$log")"; exit 0; }
    for host in "trl datasets" lightning bitsandbytes torchao "gguf sentencepiece ml_dtypes PyYAML"; do
        # shellcheck disable=SC2086 # a list of packages that belong together
        "${pip[@]}" $host >"$log" 2>&1 || echo "SKIPPED: $host: $(grep -m 1 -i error "$log" || tail -n 1 "$log")"
    done
    python=$venv/bin/python
fi
"$python" - <<'END' || exit 1
import importlib.metadata
names = ("torch", "transformers", "peft", "accelerate", "trl", "lightning", "bitsandbytes", "torchao")
have = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
print("with", ", ".join(f"{name} {have[name]}" for name in names if name in have))
END
SALF_SHARED=$(realpath -m "${SALF_SHARED:-../shared}")
export SALF_BUILD=$build SALF_SHARED SALF_LIBRARY=$build/lib/libsalf.so SALF_PROGRAM=$build/bin/salf HF_HUB_OFFLINE=1
export PYTHONPATH=$PWD/bindings/python/src:$PWD/tests/python${PYTHONPATH:+:$PYTHONPATH} PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
exec "$python" -W ignore -m pytest -c bindings/python/pyproject.toml -p no:cacheprovider -p lines "${@:-bindings/python/tests/torch}"
