from . import batch as batch
from . import elements as elements
from . import formulas as formulas
from . import lattice as lattice
from . import limits as limits
from . import neighbors as neighbors
from . import niggli as niggli
from .batch import Crystals as Crystals
