"""From images and grades to a calibrated scorer."""
