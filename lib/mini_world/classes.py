"""The sixteen classes, in label order, without the packages that build and render them."""

# Degrees that turn each class from its modelling axes to its most telling view (side or three-quarter view, handle and
# spout in profile). Object yaw 0 means this view.
CANONICAL_YAW = {
    "airplane": 55.0,
    "boat": 70.0,
    "bottle": 0.0,
    "car": 60.0,
    "chair": 35.0,
    "dog": 65.0,
    "guitar": 5.0,
    "hammer": 80.0,
    "house": 35.0,
    "lamp": 0.0,
    "mug": 0.0,
    "mushroom": 0.0,
    "table": 30.0,
    "teapot": 0.0,
    "tree": 0.0,
    "umbrella": 0.0,
}

CLASSES = tuple(CANONICAL_YAW)
