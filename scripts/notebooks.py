"""Execute the notebooks and keep their outputs: `python scripts/notebooks.py`; with `--check`, keep nothing.

Each runs from top to bottom in a fresh kernel of this very Python, with its own folder as working directory, as many
side by side as there are cores. What is kept depends on the code and the records alone: no times, no versions; an
output that names a folder of this machine is an error, as is any exception in a cell. The exit code is 1 where a
notebook failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from side_by_side import cores

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 600  # for one cell
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class NotebookError(RuntimeError):
    """A notebook that failed or whose outputs cannot be kept; the text names notebook, cell and cause."""


def execute(path: Path) -> NotebookNode:
    """The notebook `path` with the outputs of a fresh run. Raises NotebookError."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            km=_kernel(Path(folder)),
            timeout=SECONDS,
            record_timing=False,
            resources={"metadata": {"path": str(path.parent)}},
        )
        try:
            client.execute()
        except CellExecutionError as error:
            raise NotebookError(f"{path}: {error.ename}: {error.evalue}\n{error.traceback}") from error
        except (CellTimeoutError, DeadKernelError) as error:
            raise NotebookError(f"{path}: {error}") from error
    notebook.metadata = nbformat.from_dict(METADATA)
    refuse_machine_paths(path, notebook)
    return notebook


def _kernel(folder: Path) -> AsyncKernelManager:
    """A manager of a kernel of this interpreter, described in `folder` and registered nowhere."""
    spec = folder / "kernels" / "python3"
    spec.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "", "language": "python"}))
    specs = KernelSpecManager(kernel_dirs=[str(spec.parent)], ensure_native_kernel=False)
    return AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)


def refuse_machine_paths(path: Path, notebook: NotebookNode) -> None:
    """Raise NotebookError where an output names this repository's folder, its Python or the home folder."""
    folders = {str(ROOT), sys.prefix, str(Path.home())} - {Path.home().anchor}
    for number, cell in enumerate(notebook.cells, 1):
        # JSON would escape the separators of Windows, so the outputs are searched as they are.
        text = str(cell.get("outputs", ""))
        if found := [folder for folder in sorted(folders) if folder in text]:
            raise NotebookError(f"{path}, cell {number}: its output names {found[0]}: print relative paths")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="notebooks (default: notebooks/*.ipynb)")
    parser.add_argument("--check", action="store_true", help="execute them, but write nothing")
    options = parser.parse_args(arguments)
    paths = options.paths or sorted((ROOT / "notebooks").glob("*.ipynb"))
    if not paths:
        print("there are no notebooks in notebooks/")

    def passes(path: Path) -> bool:
        try:
            notebook = execute(path)
            if not options.check:
                nbformat.write(notebook, path)
        except (NotebookError, OSError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
            print(f"failed: {error}", file=sys.stderr, flush=True)
            return False
        print(f"{'passed' if options.check else 'written'}: {path}", flush=True)
        return True

    with ThreadPoolExecutor(len(cores())) as pool:
        return 0 if all(list(pool.map(passes, paths))) else 1


if __name__ == "__main__":
    sys.exit(main())
