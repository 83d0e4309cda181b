#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seed corpora of the safetensors and config fuzz targets: make.py FOLDER makes FOLDER/safetensors and FOLDER/config."""
import json
import pathlib
import struct
import sys


def safetensors(header, data=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


FILES = {
    "empty": safetensors({}),
    "one": safetensors({"a": tensor("F32", [1], 0, 4)}, b"\0\0\x80?"),
    "two": safetensors({"__metadata__": {"format": "pt"}, "a": tensor("BF16", [2, 1], 0, 4), "b": tensor("U8", [3], 4, 7)}, b"1234567"),
    "zero": safetensors({"a": tensor("F64", [3, 0], 0, 0), "": tensor("BOOL", [], 0, 1)}, b"\1"),
    "overlap": safetensors({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 1, 3)}, b"123"),
    "hole": safetensors({"a": tensor("U8", [1], 0, 1), "b": tensor("U8", [1], 2, 3)}, b"123"),
    "wrap": safetensors({"a": tensor("F32", [1 << 62], 0, 0)}),
    "huge": safetensors({}, size=10_000_000_000),
    "twice": safetensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', b"12"),
    "deep": safetensors(b'{"a":' + b"[" * 200),
}

CONFIG = {
    "_class_name": "WanTransformer3DModel", "_diffusers_version": "0.42.0", "added_kv_proj_dim": None, "attention_head_dim": 128,
    "cross_attn_norm": True, "eps": 1e-06, "ffn_dim": 8960, "freq_dim": 256, "image_dim": None, "in_channels": 16, "num_attention_heads": 12,
    "num_layers": 30, "out_channels": 16, "patch_size": [1, 2, 2], "pos_embed_seq_len": None, "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024, "text_dim": 4096,
}

CONFIGS = {
    "wan-1.3b": CONFIG,
    "i2v": CONFIG | {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 1536, "pos_embed_seq_len": 514},
    "tiny": CONFIG | {"attention_head_dim": 24, "num_attention_heads": 2, "num_layers": 2, "ffn_dim": 64, "text_dim": 32, "qk_norm": None},
    "negative": CONFIG | {"num_layers": -1},
    "large": CONFIG | {"ffn_dim": 10**19, "eps": 1e400},
    "types": CONFIG | {"patch_size": "122", "eps": "x", "cross_attn_norm": 1},
    "empty": {},
}


def main():
    root = pathlib.Path(sys.argv[1])
    for folder, files in (("safetensors", FILES), ("config", {k: json.dumps(v).encode() for k, v in CONFIGS.items()})):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (root / folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
