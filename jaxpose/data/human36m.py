"""Human3.6M: its subjects, actions, joints and cameras, which its tools publish as constants.

The cameras are in the position form, ``X_camera = R (X_world - position)``, in millimetres, world z up (`jaxpose.cameras`). Their
distortion is Human3.6M's own model. NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxpose.cameras import project, world_to_camera

__all__ = [
    "ACTIONS",
    "CAMERAS",
    "LENSES",
    "RAW_JOINTS",
    "SUBJECTS",
    "TEST",
    "TRAIN",
    "Lens",
    "camera",
    "pixels",
    "rotation",
]

TRAIN = ("S1", "S5", "S6", "S7", "S8")
"""The subjects that protocol 2 by data trains on; most published numbers are of this protocol."""
TEST = ("S9", "S11")
"""The subjects that it tests on."""
SUBJECTS = ("S1", "S5", "S6", "S7", "S8", "S9", "S11")
ACTIONS = (
    "Directions", "Discussion", "Eating", "Greeting", "Phoning", "Posing", "Purchases", "Sitting", "SittingDown", "Smoking", "Photo",
    "Waiting", "Walking", "WalkDog", "WalkTogether",
)  # fmt: skip
"""In the order of the numbers of the pictures' files, act_02 to act_16."""
RAW_JOINTS = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)
"""Indices among the 32 raw joints of those that `jaxpose.skeleton.H36M17` keeps."""
NUM_RAW = 32


@dataclass(frozen=True)
class Lens:
    """The inner parameters of a camera: its name, the size of its pictures, and `jaxpose.cameras.project`'s parameters."""

    name: str
    size_wh: tuple[int, int]
    focal: tuple[float, float]
    center: tuple[float, float]
    radial: tuple[float, float, float]
    tangential: tuple[float, float]


LENSES = (
    Lens("54138969", (1000, 1002), (1145.0494384766, 1143.7811279297), (512.54150390625, 515.45147705078),
         (-0.207098916173, 0.247775182128, -0.00307515030727), (-0.00142447161488, -0.000975698872935)),
    Lens("55011271", (1000, 1000), (1149.6756591797, 1147.5916748047), (508.8486328125, 508.06491088867),
         (-0.194213628769, 0.240408539772, 0.00681997556239), (-0.00274089444429, -0.00161902664695)),
    Lens("58860488", (1000, 1000), (1149.1407470703, 1148.7989501953), (519.81585693359, 501.40264892578),
         (-0.208338186145, 0.255488008261, -0.00246049743146), (-0.000759999325965, 0.00148438697215)),
    Lens("60457274", (1000, 1002), (1145.5113525391, 1144.7739257812), (514.96820068359, 501.88201904297),
         (-0.198384091258, 0.218323677778, -0.00894780736417), (-0.0018133620033, -0.000587205577176)),
)  # fmt: skip
# By subject, for each camera: the unit quaternion w, x, y, z from camera to world, and the position in mm.
CAMERAS = {
    1: (
        (0.1407056450844, -0.1500701755285, -0.7552407979965, 0.622328042984, 1841.1070556641, 4955.2846679688, 1563.4454345703),
        (0.6157187819481, -0.7648363113403, -0.1483382582664, 0.1179474070668, 1761.2785644531, -5078.0068359375, 1606.2650146484),
        (0.1465147286654, -0.1464785188437, 0.7653023600578, -0.6094175577164, -1846.7777099609, 5215.0463867188, 1491.9724121094),
        (0.5834008455276, -0.7853162288666, 0.1454882323742, -0.1474959403276, -1794.7896728516, -3722.6989746094, 1574.8927001953),
    ),
    5: (
        (0.1467377245426, -0.1623709648848, -0.7551892995834, 0.6178938746452, 2097.3916015625, 4880.9448242188, 1605.732421875),
        (0.615975856781, -0.7626792192459, -0.1572819203138, 0.1189815029502, 2031.7008056641, -5167.9331054688, 1612.9230957031),
        (0.1429137140512, -0.1290784180164, 0.7678384780884, -0.6110143065453, -1620.5948486328, 5171.6586914062, 1496.4370117188),
        (0.5920479893684, -0.7814217805862, 0.1274748593569, -0.1503641754389, -1637.1737060547, -3867.3173828125, 1547.033203125),
    ),
    6: (
        (0.1337897777557, -0.1569239646196, -0.7571090459824, 0.6198879480362, 1935.4517822266, 4950.2456054688, 1618.0838623047),
        (0.614719748497, -0.7628812789917, -0.1617476791143, 0.1181924492121, 1969.8039550781, -5128.7387695312, 1632.7788085938),
        (0.1529948115349, -0.1352913081646, 0.7646096348763, -0.611278116703, -1769.5964355469, 5185.361328125, 1476.9934082031),
        (0.5916101336479, -0.7804774045944, 0.1283227056265, -0.1561593860388, -1721.6687011719, -3884.1313476562, 1540.4879150391),
    ),
    7: (
        (0.143524184823, -0.1631336808205, -0.7548328638077, 0.6188824772835, 1974.5129394531, 4926.3544921875, 1597.8326416016),
        (0.6141672730446, -0.76382625103, -0.1596645563841, 0.117792993784, 1937.0584716797, -5119.7900390625, 1631.5665283203),
        (0.145500600338, -0.1287481635809, 0.7660516500473, -0.612713932991, -1741.8111572266, 5208.2495117188, 1464.8245849609),
        (0.5912848114967, -0.7821764349937, 0.1244547367096, -0.1519648730755, -1734.7105712891, -3832.4213867188, 1548.5830078125),
    ),
    8: (
        (0.1411058753729, -0.1558986753225, -0.7561917304993, 0.6196440458298, 2150.6518554688, 4896.1611328125, 1611.9046630859),
        (0.6169601678848, -0.7647668123245, -0.1484635025263, 0.1115815788507, 2219.9655761719, -5148.453125, 1613.0440673828),
        (0.1471444070339, -0.1337711960077, 0.767012834549, -0.6100369691849, -1571.2215576172, 5137.0185546875, 1498.1761474609),
        (0.5927824378014, -0.7825870513916, 0.1214781627059, -0.1463199555874, -1476.9133300781, -3896.7412109375, 1547.9721679688),
    ),
    9: (
        (0.1554058790207, -0.1554821580648, -0.7532095313072, 0.6199594736099, 2044.4584960938, 4935.1171875, 1481.2275390625),
        (0.6187844872475, -0.7634735107422, -0.141322389245, 0.1193396821618, 1990.9597167969, -5123.810546875, 1568.8048095703),
        (0.1335782706738, -0.1367100477219, 0.7689454555511, -0.61007386446, -1670.9921875, 5211.9858398438, 1528.3879394531),
        (0.5879399180412, -0.7823407053947, 0.142761439085, -0.1479486972094, -1696.0434570312, -3827.0998535156, 1591.4127197266),
    ),
    11: (
        (0.1523247212172, -0.1544232070446, -0.7547563314438, 0.6191070079803, 2098.4401855469, 4926.5546875, 1500.2785644531),
        (0.6189449429512, -0.7600917220116, -0.1530063301325, 0.1255258321762, 2083.1823730469, -4912.1728515625, 1561.0786132812),
        (0.1494322866201, -0.156502276659, 0.7681233882904, -0.6026304364204, -1609.8153076172, 5177.3359375, 1537.8967285156),
        (0.5894251465797, -0.7818877100945, 0.1399121135473, -0.1471536159515, -1590.7380371094, -3854.1689453125, 1578.017578125),
    ),
}  # fmt: skip


def rotation(quaternion: np.ndarray | tuple[float, ...]) -> np.ndarray:
    """Returns the rotation matrix from world to camera of a quaternion from camera to world.

    Args:
        quaternion: (w, x, y, z), of length 1.

    >>> rotation((1.0, 0.0, 0.0, 0.0)).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    w, x, y, z = np.asarray(quaternion, np.float64)
    to_world = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
    return to_world.T


def camera(subject: str, number: int) -> tuple[np.ndarray, np.ndarray, Lens]:
    """Returns the rotation (3, 3) from world to camera, the position (3,) in mm, and the lens.

    Args:
        subject: "S1", "S5", "S6", "S7", "S8", "S9" or "S11".
        number: 0 to 3, the order of `LENSES`.

    Raises:
        ValueError: there is no such subject or camera.

    >>> camera("S1", 0)[1].round(1).tolist()
    [1841.1, 4955.3, 1563.4]
    """
    if subject not in SUBJECTS or not 0 <= number < len(LENSES):
        raise ValueError(f"subject {subject!r}, camera {number}: expected one of {', '.join(SUBJECTS)}, and 0 to 3")
    outer = CAMERAS[int(subject[1:])][number]
    return rotation(outer[:4]), np.array(outer[4:]), LENSES[number]


def pixels(joints: np.ndarray, lens: Lens) -> np.ndarray:
    """Returns the pixels (..., K, 2) of joints (..., K, 3) in camera coordinates, as Human3.6M's annotation has them.

    >>> pixels(np.array([[0.0, 0.0, 5000.0]]), LENSES[0]).round(1).tolist()
    [[512.5, 515.5]]
    """
    return project(
        joints, focal=np.array(lens.focal), center=np.array(lens.center), radial=np.array(lens.radial),
        tangential=np.array(lens.tangential),
    )  # fmt: skip


def seen_by(world: np.ndarray, subject: str, number: int) -> np.ndarray:
    """Returns joints (..., 3) in the coordinates of a camera, from world coordinates in mm."""
    turn, position, _ = camera(subject, number)
    return world_to_camera(world, rotation=turn, position=position)
