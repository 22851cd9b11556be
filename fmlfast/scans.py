"""Re-exports the scan-to-mesh evaluation under its public path."""

from fmlfast.evaluation.scans.protocol import evaluate_scans as evaluate_scans
from fmlfast.evaluation.scans.protocol import face_disc as face_disc
from fmlfast.evaluation.scans.protocol import scan_to_mesh as scan_to_mesh
from fmlfast.evaluation.scans.table import ScanErrors as ScanErrors
