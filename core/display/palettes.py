"""Colours as data: what stands for every class of a dataset, and the points that colormaps pass through."""

from __future__ import annotations


def palette_entries(text: str) -> list[tuple[str, str]]:
    """(RRGGBB, class name) of each, from 'RRGGBB class name, RRGGBB class name, ...'. UserError for anything else."""
    pairs = [entry.strip().split(maxsplit=1) for entry in text.replace("\n", " ").split(",")]
    return [(colour, name) for colour, name in pairs]


def recoloured(text: str, changes: str) -> str:
    """A palette with other colours for some of its classes."""
    new = {name: colour for colour, name in palette_entries(changes)}
    return ", ".join(f"{new.get(name, colour)} {name}" for colour, name in palette_entries(text))


# ADE20K's 150 scene-parsing classes (Zhou et al. 2017) in the colours that segmentation ControlNets were trained on:
# RRGGBB and name, in class order. Road and skyscraper share a colour.
ADE20K = """
787878 wall, b47878 building, 06e6e6 sky, 503232 floor, 04c803 tree, 787850 ceiling, 8c8c8c road, cc05ff bed, e6e6e6
windowpane, 04fa07 grass, e005ff cabinet, ebff07 sidewalk, 96053d person, 787846 earth, 08ff33 door, ff0652 table,
8fff8c mountain, ccff04 plant, ff3307 curtain, cc4603 chair, 0066c8 car, 3de6fa water, ff0633 painting, 0b66ff sofa,
ff0747 shelf, ff09e0 house, 0907e6 sea, dcdcdc mirror, ff095c rug, 7009ff field, 08ffd6 armchair, 07ffe0 seat, ffb806
fence, 0aff47 desk, ff290a rock, 07ffff wardrobe, e0ff08 lamp, 6608ff bathtub, ff3d06 railing, ffc207 cushion, ff7a08
base, 00ff14 box, ff0829 column, ff0599 signboard, 0633ff chest of drawers, eb0cff counter, a09614 sand, 00a3ff sink,
8c8c8c skyscraper, fa0a0f fireplace, 14ff00 refrigerator, 1fff00 grandstand, ff1f00 path, ffe000 stairs, 99ff00
runway, 0000ff case, ff4700 pool table, 00ebff pillow, 00adff screen door, 1f00ff stairway, 0bc8c8 river, ff5200
bridge, 00fff5 bookcase, 003dff blind, 00ff70 coffee table, 00ff85 toilet, ff0000 flower, ffa300 book, ff6600 hill,
c2ff00 bench, 008fff countertop, 33ff00 stove, 0052ff palm, 00ff29 kitchen island, 00ffad computer, 0a00ff swivel
chair, adff00 boat, 00ff99 bar, ff5c00 arcade machine, ff00ff hovel, ff00f5 bus, ff0066 towel, ffad00 light, ff0014
truck, ffb8b8 tower, 001fff chandelier, 00ff3d awning, 0047ff streetlight, ff00cc booth, 00ffc2 television receiver,
00ff52 airplane, 000aff dirt track, 0070ff apparel, 3300ff pole, 00c2ff land, 007aff bannister, 00ffa3 escalator,
ff9900 ottoman, 00ff0a bottle, ff7000 buffet, 8fff00 poster, 5200ff stage, a3ff00 van, ffeb00 ship, 08b8aa fountain,
8500ff conveyer belt, 00ff5c canopy, b800ff washer, ff001f plaything, 00b8ff swimming pool, 00d6ff stool, ff0070
barrel, 5cff00 basket, 00e0ff waterfall, 70e0ff tent, 46b8a0 bag, a300ff minibike, 9900ff cradle, 47ff00 oven, ff00a3
ball, ffcc00 food, ff008f step, 00ffeb tank, 85ff00 trade name, ff00eb microwave, f500ff pot, ff007a animal, fff500
bicycle, 0abed4 lake, d6ff00 dishwasher, 00ccff screen, 1400ff blanket, ffff00 sculpture, 0099ff hood, 0029ff sconce,
00ffcc vase, 2900ff traffic light, 29ff00 tray, ad00ff ashcan, 00f5ff fan, 4700ff pier, 7a00ff crt screen, 00ffb8
plate, 005cff monitor, b8ff00 bulletin board, 0085ff shower, ffd600 radiator, 19c2c2 glass, 66ff00 clock, 5c00ff flag
"""

# DMP (Lee et al. 2024): the same classes, of which it gave those of bedrooms colours farther apart.
DMP = """
fb8072 bed, dbdb8d cabinet, f7b6d2 door, b3de69 table, 8dd3c7 plant, ffed6f curtain, bcbd22 chair, ccebc5 painting,
17becf mirror, aec7e8 rug, 1f77b4 armchair, fccde5 lamp, fdb462 cushion, c5b0d5 box, c49c94 chest of drawers, 80b1d3
pillow, ff9896 flower, e377c2 book, 2ca02c light, 9467bd chandelier, 98df8a ottoman, 9edae5 pot, d62728 blanket, ff7f0e
sconce, ffbb78 vase
"""

# COCO's 133 panoptic classes (Kirillov et al. 2019): 80 things, then 53 kinds of stuff.
COCO = """
dc143c person, 770b20 bicycle, 00008e car, 0000e6 motorcycle, 6a00e4 airplane, 003c64 bus, 005064 train, 000046 truck,
0000c0 boat, faaa1e traffic light, 64aa1e fire hydrant, dcdc00 stop sign, af74af parking meter, fa001e bench, a52a2a
bird, ff4dff cat, 00e2fc dog, b6b6ff horse, 005200 sheep, 78a69d cow, 6e4c00 elephant, ae39ff bear, c76400 zebra,
480076 giraffe, ffb3f0 backpack, 007d5c umbrella, d10097 handbag, bcd0b6 tie, 00dcb0 suitcase, ff63a4 frisbee, 5c0049
skis, 8581ff snowboard, 4eb4ff sports ball, 00e400 kite, aefff3 baseball bat, 2d59ff baseball glove, 868667
skateboard, 9194ae surfboard, ffd0ba tennis racket, c5e2ff bottle, ab8601 wine glass, 6d3f36 cup, cf8aff fork, 97005f
knife, 09503d spoon, 546933 bowl, 4a4169 banana, a6c466 apple, d0c3d2 sandwich, ff6d41 orange, 008f95 broccoli, b300c2
carrot, d1636a hot dog, 057900 pizza, e3ffcd donut, 93bad0 cake, 994501 chair, 035fa1 couch, a3ff00 potted plant,
7700aa bed, 00b6c7 dining table, 00a578 toilet, b78258 tv, 5f2000 laptop, 827287 mouse, 6e8185 remote, a64a76
keyboard, db8eb9 cell phone, 4fd272 microwave, b25a3e oven, 41460f toaster, 7fa773 sink, 3b696a refrigerator, 8e6c2d
book, c4ac00 clock, 5f3650 vase, 804cff scissors, c93901 teddy bear, f6007a hair drier, bfa2d0 toothbrush, ffff80
banner, 93d3cb blanket, 966464 bridge, a8abac cardboard, 9270c6 counter, d2aa64 curtain, 5c8859 door-stuff, da58b8
floor-wood, f18100 flower, d911ff fruit, 7c4ab5 gravel, 464646 house, ffe4ff light, 9ad000 mirror-stuff, c1005c net,
4c5b71 pillow, ffb4c3 platform, 6a9ab0 playingfield, e6968c railroad, 3c8fff river, 804080 road, 5c5237 roof, fed47c
sand, 494dae sea, ffa062 shelf, ffffff snow, 68546d stairs, a9a483 tent, e1c7ff towel, 89364a wall-brick, 879edf
wall-stone, 07f6e7 wall-tile, 6bffc8 wall-wood, 3a2995 water-other, b7798e window-blind, ff4961 window-other, 6b8e23
tree-merged, be9999 fence-merged, 928b8d ceiling-merged, 4682b4 sky-other-merged, 86c79c cabinet-merged, d1e28c
table-merged, 60246c floor-other-merged, 606060 pavement-merged, 40aa40 mountain-merged, 98fb98 grass-merged, d0e5e4
dirt-merged, cebaab paper-merged, 98a140 food-other-merged, 747000 building-other-merged, 00728f rock-merged, 66669c
wall-other-merged, fa8dff rug-merged
"""

# The 40 classes of NYU Depth v2 (Gupta et al. 2013) in the colours of ScanNet and Hypersim; the index is NYU's number.
NYU40 = """
000000 unlabelled, aec7e8 wall, 98df8a floor, 1f77b4 cabinet, ffbb78 bed, bcbd22 chair, 8c564b sofa, ff9896 table,
d62728 door, c5b0d5 window, 9467bd bookshelf, c49c94 picture, 17becf counter, b24c4c blinds, f7b6d2 desk, 42bc66
shelves, dbdb8d curtain, 8c39c5 dresser, cab934 pillow, 33b0cb mirror, c83683 floor mat, 5cc13d clothes, 4e47b7
ceiling, ac7252 books, ff7f0e refrigerator, 5ba38a television, 99629c paper, 8c9965 towel, 9edae5 shower curtain,
647d9a box, b27f87 whiteboard, 78b980 person, 926fc2 nightstand, 2ca02c toilet, 708090 sink, 60cfd1 lamp, e377c2
bathtub, d55cb0 bag, 5e6ad3 other structure, 5254a3 other furniture, 645590 other prop
"""

# The classes of the rooms that `scenes` renders, in the order of their numbers. No two colours are closer than 127
# levels of one channel, so that a small network tells them apart.
ROOMS = """
000000 unlabelled, 808080 wall, 800000 floor, ffffff ceiling, 80ffff window, 808000 door, ff0000 person, ff8080 animal,
0000ff chair, 8000ff sofa, ff8000 table, ff00ff bed, 80ff00 storage, ffff00 lamp, 00ff00 plant, 00ffff screen, 008080
appliance, 0080ff sanitary, ff0080 textile, ffff80 picture, 000080 vehicle, 80ff80 object, 008000 ground, 8080ff sky
"""

# Twelve kinds of furniture, what a room is made of, and people: those of the classes above that a room is judged by, in
# the same colours.
FURNITURE = """
808080 wall, 800000 floor, ffffff ceiling, ff0000 person, 0000ff chair, 8000ff sofa, ff8000 table, ff00ff bed, 80ff00
storage, ffff00 lamp, 00ff00 plant, 00ffff screen, 008080 appliance, 0080ff sanitary, ff0080 textile, ffff80 picture
"""

# Evenly spaced points, RRGGBB, with straight lines between them: inferno, magma and viridis (van der Walt and Smith
# 2015), turbo (Mikhailov 2019), and ColorBrewer's Spectral from its blue end.
INFERNO = """
000004 02020c 050417 0a0722 10092d 160b39 1e0c45 260c51 2f0a5b 380962 400a67 490b6a 510e6c 59106e 61136e 69166e
71196e 781c6d 801f6c 88226a 902568 982766 a02a63 a82e5f b0315b b73557 bf3952 c63d4d cc4248 d34743 d94d3d df5337
e45a31 e9612b ed6925 f1711f f47918 f78212 f98b0b fa9407 fb9d07 fca60c fcb014 fbba1f fac42a f8cd37 f6d746 f4e156
f2ea69 f2f27d f5f992 fcffa4
"""

MAGMA = """
000004 02020b 050416 090720 0e0b2b 140e36 1a1042 21114e 29115a 311165 390f6e 420f75 4a1079 52137c 5a167e 621980
6a1c81 721f81 792282 812581 892881 912b81 992d80 a1307e aa337d b2357b ba3878 c23b75 ca3e72 d2426f d9466b e04c67
e75263 ec5860 f1605d f4695c f7725c f97b5d fb8560 fc8e64 fd9869 fea16e feaa74 feb47b febd82 fec68a fecf92 fed89a
fde2a3 fdebac fcf4b6 fcfdbf
"""

VIRIDIS = """
440154 46085c 471063 481769 481d6f 482475 472a7a 46307e 453781 433d84 414287 3f4889 3d4e8a 3a538b 38598c 355e8d
33638d 31688e 2e6d8e 2c718e 2a768e 297b8e 27808e 25848e 23898e 218e8d 20928c 1f978b 1e9c89 1fa188 21a585 24aa83
28ae80 2eb37c 35b779 3dbc74 46c06f 50c46a 5ac864 65cb5e 70cf57 7cd250 89d548 95d840 a2da37 b0dd2f bddf26 cae11f
d8e219 e5e419 f1e51d fde725
"""

TURBO = """
30123b 36215f 3b2f80 3f3e9c 424bb5 4559cb 4666dd 4773eb 4680f6 458cfd 4099ff 38a5fb 2fb2f4 27bee9 1fc9dd 1ad4d0
18ddc2 1ae4b6 22ebaa 2ff19b 3ff68a 52fa7a 65fd69 79fe59 8bff4b 9cfe40 a9fb39 b7f735 c3f134 d0ea34 dbe236 e5d938
eecf3a f5c53a faba39 fdae35 fea130 fe932a fc8423 f9751d f46617 ef5811 e84b0c e14109 d83706 ce2d04 c32503 b71d02
a91601 9b0f01 8b0902 7a0403
"""

SPECTRAL = """
5e4fa2 3288bd 66c2a5 abdda4 e6f598 ffffbf fee08b fdae61 f46d43 d53e4f 9e0142
"""
