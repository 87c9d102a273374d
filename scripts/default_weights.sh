#!/usr/bin/env bash
# The weights that come with lipsync_jax, from shards to one float16 file.
#
#   scripts/default_weights.sh SHARDS DIR [--config.field=value …]
#
# Expert, generator, HQ generator (HQ_STEPS, 2000), each in its folder of DIR,
# and a mixture of the last two. Killed and started again it goes on where it
# was. Further flags go to every stage; a CPU wants --config.net.width=0.25
# --config.net.dtype=float32 --config.data.resident=False --config.batch=16
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,9p' "$0"; exit 2; }
shards=$1 dir=$2 hq=${HQ_STEPS:-2000}
shift 2
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

train() { # CONFIG FOLDER FLAGS…
  "$python" -m lipsync_jax.main --config="configs/$1.py" --workdir="$dir/$2" \
    --config.data.folder="$shards" "${@:3}"
}

expert=$dir/expert/syncnet.safetensors
train default_syncnet expert "$@"
train default generator --config.ears="$expert" "$@"
train default hq --config.ears="$expert" --config.expert="$expert" \
  --config.stage=hq --config.data.frames=5 --config.batch=64 "$@" \
  --config.steps=$hq --config.optimiser.decay_steps=$hq \
  --config.optimiser.rate=2e-4 --config.optimiser.b1=0.5 --config.export=last \
  --config.init="$dir/generator/generator.safetensors"
"$python" scripts/mix.py "$dir/generator/generator.safetensors" \
  "$dir/hq/generator.safetensors" 0.6 "$dir/mixed.safetensors"
"$python" -m lipsync_jax.weights half "$dir/mixed.safetensors" \
  "$dir/default.safetensors"
"$python" -m lipsync_jax.weights info "$dir/default.safetensors"
