"""Common concrete nouns, the default words of the ``dor`` loss."""

from __future__ import annotations

NOUNS: tuple[str, ...] = tuple(
    """
    acorn airplane alligator ambulance anchor ant antelope apple apron armchair arrow artichoke
    avocado axe backpack badger badge bakery balcony ball balloon bamboo banana bandage banjo barn
    barrel basket bat bathtub battery beach bead bean bear beaver bed bee beetle bell belt bench
    berry bicycle bird biscuit blanket blender blossom boat bolt bone book boot bottle bowl box
    bracelet branch brick bridge broccoli broom bucket buffalo bulb bus butter butterfly button
    cabbage cabin cable cactus cage cake calculator calendar camel camera candle canoe canyon cap
    car carpet carrot cart castle cat cauliflower cave cello chain chair cheese cheetah cherry
    chess chicken chimney chocolate church clam clock cloud clover coat cobra coconut coin comb
    compass computer cookie coral corn couch cow crab cradle crane crayon cricket crocodile crow
    crown cucumber cup curtain cushion daisy deer desk diamond dice dog doll dolphin donkey door
    dragonfly drawer dress drill drum duck eagle ear earring egg elephant elevator engine envelope
    eraser eye falcon fan feather fence fern fiddle fig finger fire fireplace fish flag flamingo
    flower flute fly fork fossil fountain fox frog fruit garage garden garlic gate giraffe glacier
    glass globe glove goat goldfish goose gorilla grape grass guitar gull hammer hammock hamster
    hand harbour harp hat hawk hedgehog helicopter helmet hen heron hill hippo honey hook horse
    hose hospital hotel house iceberg igloo insect island jacket jaguar jar jeep jellyfish jewel
    jug kangaroo kettle key keyboard kite kitten knife koala ladder ladybug lake lamb lamp lantern
    laptop leaf lemon leopard letter lettuce library lighthouse lily lion lizard llama lobster
    lock locomotive log lotus magnet mailbox mango maple mask mattress meadow medal melon
    microphone microscope mirror mitten monkey moon moose mosque moth motorcycle mountain mouse
    mug mushroom nail napkin necklace needle nest net newspaper nut oak oar octopus olive onion
    orange orchard orchid ostrich otter oven owl ox oyster paddle paintbrush palm pan panda papaya
    parachute parrot peach peacock peanut pear pearl pebble pelican pen pencil penguin pepper
    piano pig pigeon pillow pine pineapple pipe pizza plate plum pocket pond pony potato pumpkin
    puppet purse rabbit raccoon radio radish raft railway rainbow raven refrigerator ribbon rice
    ring river robin rock rocket roof rooster rope rose ruler sail salmon sandal sandwich satellite
    saw saxophone scarf scissors scooter scorpion seal seashell shark sheep shelf ship shirt shoe
    shovel shrimp skateboard skirt skyscraper sled snail snake snowflake soap sock sofa soup spade
    sparrow spider spinach spoon squid squirrel stadium stairs starfish statue stone stool
    strawberry stream submarine suitcase sunflower swan sweater sword table tambourine taxi teapot
    telephone telescope television temple tent tiger toad toaster tomato toothbrush tower tractor
    train tray tree truck trumpet tulip turkey turtle typewriter umbrella vase violin volcano
    vulture wagon wallet walnut walrus wasp watch waterfall watermelon whale wheel whistle willow
    window windmill wolf wrench yacht zebra
    """.split()  # noqa: SIM905
)
