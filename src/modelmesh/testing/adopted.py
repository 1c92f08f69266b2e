"""What a store looks like that the archived Java project wrote: for tests of taking it over.

Source: `spec/cluster-state.md` 1.2 to 1.8, byte for byte; field order and omissions are that project's.
"""

HOLDER = "6c4f6-x2x7p"
"""An instance of that project which held models; it is gone."""


def adopted_items(base: str, *, model_type: str = "fake") -> dict[str, bytes]:
    """Keys and values of a cluster with three models, one vmodel that settled and one that moves.

    Args:
        base: What all keys begin with: `<root>/<prefix>/<service>/`.
        model_type: The models' type.
    """
    kind = model_type.encode()
    return {
        f"{base}registry/loaded__isvc-0123456789": b'{"type":"%b","encKey":"{\\"storage_key\\":\\"s\\"}","mPath":"SIZE_100_1_1",'
        b'"instanceIds":{"6c4f6-x2x7p":1764000000000},"refs":1,"lu":1764000000000}' % kind,
        f"{base}registry/failed": b'{"type":"%b","mPath":"SIZE_100_1_1","failedIn":{"6c4f6-x2x7p":1764000000001},'
        b'"fails":{"6c4f6-x2x7p":{"msg":"out of memory","code":7}},"lu":1763990000000,"future":{"a":[1]}}' % kind,
        f"{base}registry/a/b c": b'{"type":"%b","mPath":"SIZE_100_1_1","autoDel":true,"refs":2,"lul":1763000000000}'
        % kind,
        f"{base}vmodels/settled": b'{"o":"ksp","amid":"loaded__isvc-0123456789","tmid":"loaded__isvc-0123456789"}',
        f"{base}vmodels/moving": b'{"o":"ksp","amid":"a/b c","tmid":"a/b c","failed":true,"x":1}',
        f"{base}config/scaleup_rpm_threshold": b"3000",
    }


def leased_items(root: str, base: str) -> dict[str, bytes]:
    """Keys that instances of that project hold under their leases while they run."""
    return {
        f"{base}instances/{HOLDER}": b'{"startTime":1763900000000,"vers":1700000000000,"loc":"10.0.0.1",'
        b'"lruTime":1763990000000,"count":1,"cap":131072,"used":13,"lThreads":8,"rpm":4,"actionable":true}',
        f"{base}leaderLatch/_{HOLDER}": b"_" + HOLDER.encode(),
        f"{root}/litelinks/svc/10.0.0.1_8080_19ab0000": b'{"hostname":"10.0.0.1","port":8080,"instanceId":"6c4f6-x2x7p"}',
    }
