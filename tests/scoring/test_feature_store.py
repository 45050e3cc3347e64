import numpy as np

from artgate.scoring.feature_store import FeatureStore, remove_features


def test_features_of_purged_artworks_leave_the_stores_of_all_encoders(tmp_path):
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    stores = [FeatureStore(tmp_path, fingerprint * 64, 2, {}) for fingerprint in "ab"]
    for store in stores:
        store.write(["1", "2"], rows[:2])
        store.write(["3"], rows[2:3])
        store.write(["4"], rows[3:])
    (stores[0].folder / "torn.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    untouched = {path: path.stat().st_mtime_ns for path in stores[1].folder.iterdir()}
    assert remove_features(tmp_path, {"1", "3", "9"}) == 4
    for store in stores:
        found = store.read(["1", "2", "3", "4"])
        assert {image_id: row.tolist() for image_id, row in found.items()} == {"2": [2, 3], "4": [6, 7]}
        assert len(list(store.folder.glob("*.safetensors"))) == 2
    changed = [path for path, time in untouched.items() if path.exists() and path.stat().st_mtime_ns != time]
    assert len(changed) == 1, "a shard without any of them is not written again"
    assert remove_features(tmp_path, {"1", "3", "9"}) == 0
    assert remove_features(tmp_path / "nowhere", {"1"}) == 0
