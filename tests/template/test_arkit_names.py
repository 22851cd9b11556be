from fmlfast.template.arkit_names import ARKIT_NAMES, arkit_order
from fmlfast.template.face_template import FaceTemplate

NAMES = FaceTemplate.default(0).expression_names


def test_the_shapes_are_arkits_52_of_which_the_template_has_all_but_one() -> None:
    assert len(ARKIT_NAMES) == len(set(ARKIT_NAMES)) == 52
    assert set(ARKIT_NAMES) - set(NAMES) == {"tongueOut"} and set(NAMES) < set(ARKIT_NAMES)
    assert ARKIT_NAMES[:2] == ("eyeBlinkLeft", "eyeLookDownLeft")
    assert ARKIT_NAMES[14:18] == ("jawForward", "jawLeft", "jawRight", "jawOpen")


def test_own_names_follow_those_of_arkit_in_their_own_order() -> None:
    names = ["zeta", "jawOpen", "alpha", "eyeBlink_R", "_L"]  # ICT-FaceKit's spelling of sides
    assert [names[i] for i in arkit_order(names)] == ["eyeBlink_R", "jawOpen", "zeta", "alpha", "_L"]
