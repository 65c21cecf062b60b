"""em_stitch's lens solve in its own environment; judged on points it did not see.

    python lens_peer.py FOLDER OFF.npy

FOLDER holds `_metadata_*.json`, `_template_matches_*.json` and `unseen.json`.
"""

import json
import resource
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import renderapi
from bigfeta import jsongz
from em_stitch.lens_correction import lens_correction_solver as solver


def main() -> None:
    folder, target = sys.argv[1:]
    # the maps for rendering are no part of the fit
    solver.utils.maps_from_tform = lambda *given, **more: (0, 0, np.zeros((1, 1)))
    settings = {
        "data_dir": folder,
        "output_dir": folder,
        "mask_file": None,
        "nvertex": 1000,
        "regularization": {
            "default_lambda": 1.0,
            "lens_lambda": 0.001,
            "translation_factor": 1e-3,
        },
        "log_level": "ERROR",
    }
    for name in ("resolvedtiles*", "collection*", "output*", "raw_tilespecs*"):
        for old in Path(folder).glob(name):
            old.unlink()
    np.random.seed(0)
    cv2.setRNGSeed(0)  # its filter and its mesh differ from run to run without
    cpu, wall = time.process_time(), time.perf_counter()
    module = solver.LensCorrectionSolver(input_data=settings, args=[])
    module.run()
    cost = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    cost["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    written = sorted(Path(folder).glob("resolvedtiles*"))[-1]
    resolved = renderapi.resolvedtiles.ResolvedTiles(json=jsongz.load(str(written)))
    lens = renderapi.transform.ThinPlateSplineTransform(
        json=resolved.transforms[0].to_dict()
    )
    placed = {tile.tileId: tile.tforms[-1] for tile in resolved.tilespecs}
    off = []
    for pair in json.loads((Path(folder) / "unseen.json").read_text()):
        ends = [
            placed[pair[name]].tform(lens.tform(np.array(pair[points])))
            for name, points in (("pId", "p"), ("qId", "q"))
        ]
        off.append(ends[0] - ends[1])
    np.save(target, np.concatenate(off))
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
