"""What a cluster says of this process: whether it is one of several."""

import importlib.util
import urllib.request
from collections.abc import Mapping

SLURM = ["SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"]
WORKERS = "computeMetadata/v1/instance/attributes/worker-network-endpoints"


def in_multi_process_cluster(environ: Mapping[str, str]) -> bool:
    """Whether this process is one of several, by what a cluster says of it: JAX finds the rest.

    On a machine that is alone this is False, as on one TPU VM, or in a SLURM job of one task.
    """
    if all(name in environ for name in SLURM):
        return int(environ["SLURM_NTASKS"]) > 1
    if "OMPI_COMM_WORLD_SIZE" in environ:
        return int(environ["OMPI_COMM_WORLD_SIZE"]) > 1
    if int(environ.get("MEGASCALE_NUM_SLICES") or 1) > 1:
        return True
    if workers := environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES"):
        return "," in workers
    if "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ:
        return importlib.util.find_spec("kubernetes") is not None
    # JAX sets this where it finds no TPU.
    alone = "TPU_SKIP_MDS_QUERY" in environ or "tpu" not in environ.get("JAX_PLATFORMS", "tpu")
    if alone or importlib.util.find_spec("libtpu") is None:
        return False
    return _workers_of_slice(environ) > 1


def _workers_of_slice(environ: Mapping[str, str]) -> int:
    """The hosts of a TPU VM's slice, which only its metadata server knows."""
    server = environ.get("GCE_METADATA_IP", "metadata.google.internal")
    ask = urllib.request.Request(
        f"http://{server}/{WORKERS}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(ask, timeout=5) as answer:
            return len(answer.read().decode().split(","))
    except OSError:
        return 1
