"""Every named data set, in one literal table: pure data that imports nothing heavy.

A row says what the set is, which files hold it (with their sha256), where they can be downloaded in a form that is
used as it is, its licence and its source. `polymode data` prints it without importing torch. A file may have several
digests: the order of MNIST's training images differs between copies, for example. A set of many files is checked by
one digest, that of the sorted lines ``sha256  path`` of its files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One named set.

    Args:
        name: what `load` calls it.
        title: one line for a list.
        kind: kind and support, as `Spec.signature` spells them.
        folder: its folder below $POLYMODE_DATA; empty for sets that need no file.
        files: file name -> the sha256 values it may have.
        tree: the digest of the whole folder, for sets of many files.
        urls: file name -> where it is downloaded from, where that file can be used as it is.
        licence, source: for the model card.
    """

    name: str
    title: str
    kind: str
    folder: str = ""
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tree: str = ""
    urls: dict[str, str] = field(default_factory=dict)
    licence: str = "not stated"
    source: str = ""


_RAW = "https://raw.githubusercontent.com"
_RULE = {"licence": "Apache-2.0 (made by polymode)", "source": "made by a rule"}
_TOY = {"licence": "Apache-2.0 (drawn by polymode)", "source": "drawn from a known density"}

#: the emoji of five styles, which three sets are made of
_EMOJI: dict[str, Any] = {
    "folder": "emoji",
    "files": {
        "emoji.jsonl": ("2ccbe3d11bcebd70b5efc83161c5f4fe6309879590cea06725623be43daa3f17",),
        "noto_32.npz": ("62b5c9c347ec27fc4ffd592c4cb7904e1dc8039b622d4a2071efc86004c1edab",),
        "noto_64.npz": ("79a5757721008bd1a87da4c72308a20102e195271e68d883908225994ccac76f",),
        "noto_blob_32.npz": ("af19bb82db3349c7d67b486b2cf7a2df823bf54e974be4b636e571e4aafb3237",),
        "noto_blob_64.npz": ("3a2622527996076b0df6b238aae3cd1077fcc03d9a5fa59fe4556cf65dc696a2",),
        "openmoji_32.npz": ("c33dcc85d8c21b98702bff089ae33b142ef4f88b119dd8391aa40faa315a20b4",),
        "openmoji_64.npz": ("bda1f01ddfd8e71e9d781132cd0c30e7aefbfddb56f1e4d029f61a96e07c3829",),
        "openmoji_line_32.npz": ("1743c09552079761584d7f0f5002d5cede415f7846c649f55bca43feabd60ed1",),
        "openmoji_line_64.npz": ("a3b4c32e642bbc7efd2b83b18f7ecec286a97563cd62e43029c6a7774bd67639",),
        "twemoji_32.npz": ("102428ef0aacb95ed202fc5d121b1e0a8b24b15694303bfec072bfb1c5837c9b",),
        "twemoji_64.npz": ("7166066a8927f5d2c64c4a03b2236432504a2621a5076d663b0fab35f47ef3ef",),
    },
    "licence": ("noto, noto_blob: Apache 2.0; twemoji: CC BY 4.0; openmoji, openmoji_line: CC BY-SA 4.0; names: MIT"),
    "source": (
        "https://github.com/googlefonts/noto-emoji , https://github.com/jdecked/twemoji , "
        "https://github.com/hfg-gmuend/openmoji"
    ),
}

SETS: tuple[Entry, ...] = (
    Entry("8gaussians", "2-D toy: eight Gaussians on a ring", "vector/real", **_TOY),
    Entry("25gaussians", "2-D toy: 25 narrow Gaussians on a grid", "vector/real", **_TOY),
    Entry("moons", "2-D toy: two interleaved half circles with noise", "vector/real", **_TOY),
    Entry("checkerboard", "2-D toy: uniform on the black squares of a board", "vector/real", **_TOY),
    Entry("pinwheel", "2-D toy: five swirled arms", "vector/real", **_TOY),
    Entry("spirals", "2-D toy: two spirals with noise", "vector/real", **_TOY),
    Entry("sprites", "toy pictures of known factors: shape, size, hue and place, 16x16 or 32x32", "image/levels",
          **_RULE),
    Entry("copy", "toy pairs: 32 letters, and the same again", "tokens", **_RULE),
    Entry("reverse", "toy pairs: letters, and the same backwards", "tokens", **_RULE),
    Entry("dates", "toy pairs: dates in 16 forms, and as year-month-day", "tokens", **_RULE),
    Entry("grammar_translation", "toy pairs: a small grammar into an invented language, new compositions in the test",
          "tokens", **_RULE),
    Entry("scene_dialogues", "toy pairs: questions about a scene told in words, and their answers", "tokens", **_RULE),
    Entry("scene_captions", "toy pairs: talks about a scene, and a sentence that sums them up", "tokens", **_RULE),
    Entry("expressions", "toy code: arithmetic in names and integers, half of it assigned", "tokens", **_RULE),
    Entry("digits", "8x8 handwritten digits, 17 grey levels, 1,797 images", "image/levels",
          licence="CC BY 4.0 (UCI, Optical Recognition of Handwritten Digits)", source="scikit-learn, load_digits"),
    Entry("mnist", "28x28 handwritten digits, 70,000 images", "image/levels", "mnist",
          {"mnist.npz": ("071e6c4446bbd342ce09ef95bb0b7942e4efbd3c0b97400440774bb328c984cf",
                         "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1")},
          urls={"mnist.npz": "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"},
          licence="not stated (often given as CC BY-SA 3.0)", source="http://yann.lecun.com/exdb/mnist/"),
    Entry("mnist_binarized", "MNIST under one fixed binarisation, 50,000/10,000/10,000", "image/binary",
          "mnist_binarized",
          {"mnist_binarized.npz": ("4463dd17e74e68e8b018ca1d9a8152f55cc95bbe063a3a81bb4ac37427f2ddc7",)},
          source="http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"),
    Entry("mnist_dynamic", "MNIST binarised afresh at every visit", "image/binary", "mnist",
          {"mnist.npz": ("071e6c4446bbd342ce09ef95bb0b7942e4efbd3c0b97400440774bb328c984cf",
                         "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1")},
          urls={"mnist.npz": "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"},
          licence="not stated (often given as CC BY-SA 3.0)", source="http://yann.lecun.com/exdb/mnist/"),
    Entry("mnist_tinted", "MNIST in colours, light on dark and dark on light", "image/levels", "mnist",
          {"mnist.npz": ("071e6c4446bbd342ce09ef95bb0b7942e4efbd3c0b97400440774bb328c984cf",
                         "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1")},
          urls={"mnist.npz": "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"},
          licence="not stated (often given as CC BY-SA 3.0)", source="http://yann.lecun.com/exdb/mnist/"),
    Entry("fashion_mnist", "28x28 clothing images, 20,000 train (subset) and 10,000 test", "image/levels",
          "fashion_mnist",
          {"fashion_mnist_subset.npz": ("85cc4e3a7edcf7da06bfc8437d4fc0831f9cf035c115eb538f5318dc995a22af",)},
          licence="MIT", source="https://github.com/zalandoresearch/fashion-mnist"),
    Entry("cifar10", "32x32 colour photographs, 5,000 train and 2,000 test (lossless subset)", "image/levels",
          "cifar10", {"cifar10_subset.npz": ("35d89bc65aaebab077aea11edc46eb5e475b3e1b4841c37c1b4c79fce8e838f2",)},
          source="https://www.cs.toronto.edu/~kriz/cifar.html"),
    Entry("orl_faces", "112x92 grey faces: 40 people, 10 shots each", "image/levels", "orl_faces",
          {"orl_faces.npz": ("9e142b61268bfc6f71119e68a9fb9b576a718facf05b80ee367ef697e045798f",)},
          licence='not stated; its authors ask to "give credit to Olivetti Research Laboratory" '
                  "(Samaria and Harter 1994)",
          source="https://cam-orl.co.uk/facedatabase.html"),
    Entry("emoji", "emoji in five drawing styles, 32 or 64 pixels, labelled by group", "image/levels", **_EMOJI),
    Entry("emoji_keywords", "emoji as 16x16 bits, or in colour, with their most frequent keywords as tokens",
          "image/binary", **_EMOJI),
    Entry("emoji_vendors", "emoji of one vendor to be drawn like another's, unpaired, 32 or 64 pixels", "image/levels",
          **_EMOJI),
    Entry("emoji_lines", "line drawings of emoji and the same in colour, paired, 32 or 64 pixels", "image/levels",
          **_EMOJI),
    Entry("emoji_styles", "emoji labelled by who drew them: three vendors or more, 32 or 64 pixels", "image/levels",
          **_EMOJI),
    Entry("adult", "census income: 6 numeric and 9 categorical columns, 32,561 / 16,281 rows", "table", "adult",
          {"adult_train.csv": ("f2c62076f19504d99a38b22badf445a7f42530ade6b827acf78dd143fbce38bb",),
           "adult_test.csv": ("f6b1801c5d231515ea5ff04d4444997bacd57e04876e94710cb9b9bd5549c033",)},
          licence="not stated (UCI lists CC BY 4.0)",
          source="https://archive.ics.uci.edu/ml/machine-learning-databases/adult/"),
    Entry("california_housing", "block groups: 9 numeric columns and ocean proximity, 20,640 rows", "table",
          "california_housing",
          {"housing.csv": ("8a3727f4cf54ac1a327f69b1d5b4db54c5834ea81c6e4efc0d163300022a685e",)},
          urls={"housing.csv": f"{_RAW}/ageron/handson-ml2/master/datasets/housing/housing.csv"},
          licence="Apache 2.0", source="https://github.com/ageron/handson-ml2"),
    Entry("wine_quality", "red and white wines: 11 measurements, quality, colour, 6,497 rows", "table",
          "wine_quality",
          {"winequality.csv": ("b0f0d407aaa0206cbc7d2ef515d7ee8181c27b1777079fc4f63fc02cd1bb8bd0",)},
          licence="citation of Cortez et al. 2009 asked for (UCI lists CC BY 4.0)",
          source="https://archive.ics.uci.edu/ml/machine-learning-databases/wine-quality/"),
    Entry("asia", "toy table: eight yes/no columns of a published Bayesian network", "table",
          licence=_TOY["licence"], source="drawn from the tables of Lauritzen and Spiegelhalter 1988"),
    Entry("tinyshakespeare", "plays of Shakespeare, 1,115,394 characters of 65 kinds", "tokens", "tinyshakespeare",
          {"input.txt": ("86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",)},
          urls={"input.txt": f"{_RAW}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"},
          licence="public domain text", source="https://github.com/karpathy/char-rnn"),
    Entry("kjv_bible", "the King James Bible, 4.2 million characters", "tokens", "kjv_bible",
          {"kjv.txt": ("31a6d37bae54fa2c1d2a47905b87321bf3521cd06cc16ab52301ce2d1a2b8f02",)},
          licence="public domain text", source="https://www.gutenberg.org/ebooks/10"),
    Entry("jsb_chorales", "chorales of Bach as piano rolls, windows or whole", "series/binary", "jsb_chorales",
          {"jsb-chorales-quarter.json": ("2db9329f1881a1d3f49703ec556bf1d6f84b4f6c1d702c156536e93cf31e1c91",),
           "jsb-chorales-16th.json": ("8730aca7b64e7d29493733d1cf19fad4a5b351d8f1845e57dac27728104fd39f",),
           "jsb-chorales-16th-satb.json": ("79294cc374f9252e95ef4b703161524c1c53dc1f712c236f00f1c1f5d54af5a7",)},
          urls={f"jsb-chorales-{r}.json": f"{_RAW}/czhuang/JSB-Chorales-dataset/master/{file}.json"
                for r, file in (("quarter", "jsb-chorales-quarter"), ("16th", "jsb-chorales-16th"),
                                ("16th-satb", "Jsb16thSeparated"))},
          licence="not stated (music in the public domain)",
          source="https://github.com/czhuang/JSB-Chorales-dataset"),
    Entry("fsdd", "spoken digits, 3,000 recordings at 8 kHz, labelled", "waveform/levels", "fsdd",
          {"fsdd.npz": ("6f77053f38df3a5ae1c3ac378210142440e120329e721356c796735b4e8f0d89",)},
          licence="CC BY-SA 4.0", source="https://github.com/Jakobovski/free-spoken-digit-dataset"),
    Entry("speech_prompts", "telephone prompts by one speaker, 550 clips at 8 kHz", "waveform/levels",
          "speech_prompts",
          tree="fa0bb92eddcddae823f85e87d6a0aaabdb57467b869c106144a9e27395bc5864",
          licence="CC BY-SA 3.0 (Copyright 2003-2010 Allison Smith)",
          source="http://downloads.asterisk.org/pub/telephony/sounds/"),
    Entry("qm9_smiles", "QM9 molecules as SMILES, 120,000 / 13,885", "tokens", "qm9_smiles",
          {"train.smi": ("c88c2775294054ecd08150d0deed04034b718b21e4ea06f074e4941090fb4c70",),
           "test.smi": ("d4a372798621babf1683c57b8dd662b25316d887d4337b156c95e0bb310b3f0f",)},
          source="https://github.com/john-bradshaw/GraphVAE"),
    Entry("zinc_smiles", "drug-like molecules of ZINC as SMILES, 24,445 / 5,000", "tokens", "zinc_smiles",
          {"train.smi": ("ad7d9c2bfebd93ffda6c32ed0e89d1714ae1f592f6340c0e6ae057521bbae30d",),
           "test.smi": ("31f6ce92914814db33bf0dbfc45f3836193e27cb80a59c54d88bc05a1f5fab83",)},
          licence="not stated (ZINC asks to be cited)", source="https://github.com/wengong-jin/icml18-jtnn"),
    Entry("protein_pf00014", "aligned Kunitz domains, 53 positions of 21 symbols", "tokens", "protein_pf00014",
          {"PF00014_mgap6.fasta": ("f5abfe244d53606591e01d088b2834164fc7bfd4a86f62fe6d02c20d860bd5e0",)},
          licence="CC0 (Pfam)", source="https://www.ebi.ac.uk/interpro/entry/pfam/PF00014/"),
    Entry("ts_google_stock", "Google daily prices and volume, windows of 24 days", "series/real", "ts_google_stock",
          {"stock_data.csv": ("134b8a00eb4eefa3242dd7ae85144082da80dedf75a1a656d5d08f97cd95277a",)},
          urls={"stock_data.csv": f"{_RAW}/jsyoon0823/TimeGAN/master/data/stock_data.csv"},
          licence="not stated (repository Apache 2.0)", source="https://github.com/jsyoon0823/TimeGAN"),
    Entry("ts_etth1", "electricity transformer, hourly, 7 variables, windows of 24 hours", "series/real", "ts_etth1",
          {"ETTh1.csv": ("f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",)},
          urls={"ETTh1.csv": f"{_RAW}/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv"},
          licence="CC BY-ND 4.0", source="https://github.com/zhouhaoyi/ETDataset"),
    Entry("ts_exchange_rate", "daily rates of 8 currencies, windows of 24 days", "series/real", "ts_exchange_rate",
          {"exchange_rate.csv": ("0127465b51e3cd3c360f8eb2be30cfd294689a2a55903eb8245aafc396626c7f",)},
          urls={"exchange_rate.csv":
                f"{_RAW}/laiguokun/multivariate-time-series-data/master/exchange_rate/exchange_rate.txt.gz"},
          source="https://github.com/laiguokun/multivariate-time-series-data"),
    Entry("ts_ecg200", "single heartbeats, 96 samples, 2 classes, 100 / 100", "vector/real", "ts_ecg200",
          {"ecg200.npz": ("c9cf0dc58b8669d5b7572745963777819674f8e0165e90c8ea242144bc7aa414",)},
          source="https://www.timeseriesclassification.com/description.php?Dataset=ECG200"),
    Entry("ts_ecg5000", "single heartbeats, 140 samples, 5 classes, 500 beats", "vector/real", "ts_ecg5000",
          {"ecg5000_train.npz": ("98c2cc40d926958f0c4f5b51142684a15144d10f387184f8e3d27eb89f2a4314",)},
          source="https://www.timeseriesclassification.com/description.php?Dataset=ECG5000"),
    Entry("vglc_levels", "video game levels as tile windows (super_mario_bros, zelda, lode_runner)", "grid/tokens",
          "vglc_levels",
          tree="c9ab9b3f46c25812d3c58657b7549c417a8adeecfc8f6361325c994ab91377c3",
          licence="MIT; cite Summerville et al. 2016",
          source="https://github.com/TheVGLC/TheVGLC"),
)  # fmt: skip

BY_NAME: dict[str, Entry] = {entry.name: entry for entry in SETS}
