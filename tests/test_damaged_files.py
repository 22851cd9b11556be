"""Damaged files end in a right result, or in one ValueError or OSError that names them."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.damage import damages
from tests.helpers.readers import READERS

CASES = 6  # of each reader
QUIET = "ignore::UserWarning", "ignore::RuntimeWarning", "ignore::PIL.Image.DecompressionBombWarning"


@pytest.mark.parametrize("name", READERS)
def test_what_is_whole_is_read(name: str, tmp_path: Path) -> None:
    reader = READERS[name]
    reader.read(reader.make(tmp_path))


@pytest.mark.filterwarnings(*QUIET)
@pytest.mark.parametrize("name", READERS)
def test_damage_is_one_error_that_names_the_file(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    reader, folder = READERS[name], tmp_path_factory.mktemp("damaged")
    path = reader.make(folder)
    whole = path.read_bytes()

    @settings(
        max_examples=CASES, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
    )
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        path.write_bytes(data.draw(damages(whole)))
        try:
            reader.read(path)
        except (ValueError, OSError) as error:
            assert path.name in str(error) or str(path.parent) in str(error), error

    run()
