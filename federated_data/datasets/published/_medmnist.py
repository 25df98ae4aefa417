"""The two-dimensional sets of MedMNIST v2 with one label an image: class names and templates.

The names are those of MedMNIST's ``info.py``, in words that a prompt can hold; the grades of
RetinaMNIST, which it numbers, are named after the clinical scale. The templates are ours.
"""

from __future__ import annotations

_ORGANS = (
    "bladder",
    "left femur",
    "right femur",
    "heart",
    "left kidney",
    "right kidney",
    "liver",
    "left lung",
    "right lung",
    "pancreas",
    "spleen",
)
_CT = "an abdominal CT image of the {}."

SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "pathmnist": (
        "a histopathology image of {}.",
        (
            "adipose tissue",
            "background",
            "debris",
            "lymphocytes",
            "mucus",
            "smooth muscle",
            "normal colon mucosa",
            "cancer-associated stroma",
            "colorectal adenocarcinoma epithelium",
        ),
    ),
    "dermamnist": (
        "a dermatoscopic image of {}.",
        (
            "actinic keratoses and intraepithelial carcinoma",
            "basal cell carcinoma",
            "benign keratosis-like lesions",
            "dermatofibroma",
            "melanoma",
            "melanocytic nevi",
            "vascular lesions",
        ),
    ),
    "octmnist": (
        "a retinal OCT image of {}.",
        ("choroidal neovascularization", "diabetic macular edema", "drusen", "a normal retina"),
    ),
    "pneumoniamnist": ("a chest X-ray image of {}.", ("normal lungs", "pneumonia")),
    "retinamnist": (
        "a retinal fundus image of {}.",
        (
            "no diabetic retinopathy",
            "mild diabetic retinopathy",
            "moderate diabetic retinopathy",
            "severe diabetic retinopathy",
            "proliferative diabetic retinopathy",
        ),
    ),
    "breastmnist": (
        "a breast ultrasound image of {}.",
        ("a malignant tumour", "normal tissue or a benign tumour"),
    ),
    "bloodmnist": (
        "a microscopy image of a {}.",
        (
            "basophil",
            "eosinophil",
            "erythroblast",
            "immature granulocyte",
            "lymphocyte",
            "monocyte",
            "neutrophil",
            "platelet",
        ),
    ),
    "tissuemnist": (
        "a microscopy image of kidney cells: {}.",
        (
            "collecting duct, connecting tubule",
            "distal convoluted tubule",
            "glomerular endothelial cells",
            "interstitial endothelial cells",
            "leukocytes",
            "podocytes",
            "proximal tubule segments",
            "thick ascending limb",
        ),
    ),
    "organamnist": (_CT, _ORGANS),
    "organcmnist": (_CT, _ORGANS),
    "organsmnist": (_CT, _ORGANS),
}
"""Under each name: the template, and the class names in the order of the labels."""
