"""A synthetic PACS export: heads with and without lesions, as several scanners would send them."""
