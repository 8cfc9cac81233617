"""Costs of measured rows under the conditions they were measured at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hwsim.analysis.row_work import (
    attention_work,
    elementwise_work,
    gemm_work,
    moe_work,
)
from hwsim.cost.attention import decode_attention_cost, prefill_attention_cost
from hwsim.cost.collective import collective_bound, collective_cost
from hwsim.cost.cost import Cost, FloatArray, combine
from hwsim.cost.elementwise import elementwise_cost
from hwsim.cost.matmul import matmul_cost
from hwsim.cost.moe import moe_ffn_cost
from hwsim.cost.roofline import roofline_cost
from hwsim.cost.sequence import add
from hwsim.errors import InputError
from hwsim.specs.base import DTYPE_BYTES
from hwsim.specs.benchmark import BenchmarkSpec
from hwsim.specs.calibration import Calibration
from hwsim.specs.catalogs import load_system
from hwsim.specs.device import DeviceSpec
from hwsim.specs.measurement_names import COLLECTIVE_NAMES, SCALED_DTYPES
from hwsim.specs.measurement_table import FamilyRows
from hwsim.specs.network import replace as replace_network
from hwsim.specs.system import SystemSpec
