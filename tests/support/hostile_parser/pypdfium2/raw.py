"""The constants that the product reads from PDFium."""

FPDF_ERR_PASSWORD = 4
FPDF_ERR_SECURITY = 5
FPDF_PAGEOBJ_IMAGE = 3
